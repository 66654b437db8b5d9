"""From what exists to what a document wants: `octavia-admin lb apply -f FILE`. Pure.

What is found again keeps its id, statistics and connections; only what differs is edited. How it is found again:

- a listener by protocol and port, which are fixed for its life (another name is a change of name);
- a pool by its name and protocol, else as the default pool of a listener or the target of a policy that was found
  again, else, when it has no name, by what it says, else by protocol. A pool that the document refers to by id stays
  as it is;
- a member by address and port; a health monitor as its pool's;
- an L7 policy by its name, else by what it does, else by order; an L7 rule by what it says.

What the document leaves out takes its default, with these exceptions, which leave what is there: names, and whatever
is chosen by the network or at creation (addresses, subnets, topology, flavor).
"""

from __future__ import annotations

from octavia_core.policy.apply.edits import Change, Delete, Edit, Insert, Plan, applied
from octavia_core.policy.apply.planning import plan

__all__ = ["Change", "Delete", "Edit", "Insert", "Plan", "applied", "plan"]
