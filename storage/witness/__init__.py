"""Witnesses (c2sp.org/tlog-witness): the memory of one's own, its service, and how others are asked."""
