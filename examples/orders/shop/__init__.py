"""A function of several modules. From examples/orders: snapruntime run shop.api.create"""
