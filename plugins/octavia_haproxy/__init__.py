"""The amphora driver for HAProxy: renders configuration, speaks the agent API over mutual TLS."""
