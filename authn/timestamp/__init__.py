"""Time, as other people attest it (RFC 3161).

`request` asks, `authority` answers, `token` judges the answer, and `loopback`
lets a program that only speaks HTTP reach an authority in this process.
A token proves that a digest existed by a time, if the authority is believed;
it does not prove who asked, or that the digest is of anything true.
"""
