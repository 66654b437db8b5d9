"""Load balancers on one machine without privileges: local compute, network, secrets, and the local amphora agent."""
