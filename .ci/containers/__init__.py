"""What `make container-test` does. Not a part of the package: it drives the package from outside, in containers."""
