"""`make load-test`: `snapruntime serve` under wrk, beside servers that work otherwise."""
