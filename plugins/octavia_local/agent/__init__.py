"""The local amphora agent: one process per amphora, without privileges, on one machine.

It speaks the upstream agent REST API over mutual TLS, sends upstream heartbeats and supervises a real HAProxy.
Started with `python -m octavia_local.agent ROOT`; ROOT plays the amphora's file system.

It is started for every local amphora, so its memory and its start-up time count: these modules import the standard
library only, prefer `NamedTuple` to attrs, and do without http.server, logging, subprocess and dataclasses.
"""
