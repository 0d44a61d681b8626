"""Everything a person or a machine starts, and the one place where a verdict is made.

`authn` says what a signed capture proves, `storage` what was recorded, `detector`
what pixels suggest; they do not know each other. `tools` knows all three: it reads
paths, the environment and the clock, asks the three, decides in `tools.verdict`
and prints in `tools.cli`. From a checkout `python3 -m tools` works before anything
is installed, because `tools.bootstrap` needs only the standard library.

Nothing here judges a signature, a proof or a pixel itself.
"""
