"""What tests of several areas share: programs of the system, database servers."""
