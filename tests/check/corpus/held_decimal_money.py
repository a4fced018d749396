from decimal import ROUND_HALF_UP, Decimal, getcontext

getcontext().prec = 12
RATES = {"NOK": Decimal("11.7250"), "PEN": Decimal("4.0531")}


def lambda_handler(event, context):
    return str((Decimal("19.99") * RATES["NOK"]).quantize(Decimal("0.01"), ROUND_HALF_UP))
