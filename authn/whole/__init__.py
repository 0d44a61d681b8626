"""Where each kind of container ends: one module per format, each with one verb, `walk`.

A walk follows the format's own structure with seeks and bounded reads. It
proves that the structure is closed and reaches the end of the file; it proves
nothing about the payload inside, which a decoder must read. Where a format
cannot say that it is whole, the module says so in its first lines.
Every walk has a limit on the number of its steps, so that a small file cannot
ask for much work. Start at `authn.container.check_whole`.
"""
