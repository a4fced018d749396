"""What this host offers: facts that are read, trials that are run in throwaway children, and the probes over both."""
