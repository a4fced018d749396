"""The project on other kernels and processors: Debian machines made from packages, booted in QEMU, emulated.

`make test-kernels` and `make test-arm64` come in at `__main__`. Imports go down this list:

    __main__   which machines, in order; what people see; exit code
    report     what came of a run: the short log, and the table in docs/platforms/machines.md made from all logs
    boot       one QEMU: its command line, its console, its deadline
    project    the second disk: a copy of the work tree, the steps, CRIU's packages as a mirror of Debian
    image      the first disk, the kernels and their initrds, cached: mmdebstrap, wheels, mke2fs
    catalogue  which machines there are, and what is done on them: data only
    guest      runs on the machine, standard library only: the steps one by one, results to the console
"""
