"""What the core asks of the world, as small Protocols. A port's docstrings are its contract; testing/contracts checks them.

Rules for every driver:
- Values in, values out; nothing here is a row, a session or an SDK object.
- A name decides: the same name twice is the same thing, so a call repeated after a crash does nothing twice.
- Removing what is not there is success.
- Foreign errors become `TransientError` (may work later) or `PermanentError` (will not); nothing else escapes.
- Every call ends within `time_limit` seconds of the port, or raises `TransientError`.
- All methods may be called from several threads.
"""
