"""Which CRIU this host uses: found, judged, installed from Debian's packages, and remembered."""
