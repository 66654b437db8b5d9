"""pluggy specifications; finding, choosing and explaining plugins."""
