"""Time, as other people attest it (RFC 3161).

`request` asks, `authority` answers, and `token` judges the answer. `clock` says when an
authority has to be silent, `doubling` is how its key signs, and `relay` decides which of
several authorities' answers count. `loopback` lets a program that only speaks HTTP reach
an authority, or a relay, in this process.
A token proves that a digest existed by a time, if the authority is believed;
it does not prove who asked, or that the digest is of anything true.
"""
