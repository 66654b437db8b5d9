"""The demo: a load balancer under traffic that survives all that happens to it."""
