import pandas as pd

RATES = pd.DataFrame({"currency": ["EUR", "NOK"], "rate": [1.0, 11.7]}).set_index("currency")
EPOCH = pd.Timestamp("2024-01-01", tz="UTC")


def lambda_handler(event, context):
    return {"rate": float(RATES.loc["NOK", "rate"]), "year": EPOCH.year}
