"""Capture with a device's own key, without a network for weeks, and hand everything in later.

A camera folder holds the device's name for itself, its chain of certificates, where its key
is, and what happened so far: `folder` reads and writes it, `chain` numbers the captures,
`take` signs what it read itself, `queue` keeps each capture as one folder, `watch` looks for
new files, and `upload` hands captures in and brings receipts back.

Nothing is lost or doubled by a crash at any point: a number is written down with its link
before anything is signed, and a capture appears whole or not at all. What this does not
prove: that the scene was real, that the clock was right, or that the last captures were
handed in. Who has the device can make it sign any file that it reads as its own.
"""
