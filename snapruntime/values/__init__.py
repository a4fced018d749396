"""Values: the error tree and the frozen data that the layers above hand to each other."""
