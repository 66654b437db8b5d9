"""What users write (command line, documents, programs), turned into values of the types that the tree and wishes have.

Types and names only: whether a value makes sense is `octavia_core.policy.validity`'s affair.
"""

from __future__ import annotations

from octavia_core.policy.changes.documents import tidy, wish
from octavia_core.policy.changes.updates import normalised

__all__ = ["normalised", "tidy", "wish"]
