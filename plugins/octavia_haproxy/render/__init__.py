"""From a load balancer to the text HAProxy reads. Pure: no socket, no file, no clock."""
