"""What pixels suggest: an estimate with its measured error rate, never a proof.

A detector can be fooled, and one that is fooled makes a fake more credible
than no detector at all. So this package advises. It knows nothing of
signatures and ledgers, and nothing it answers can change what they prove: the
verdict is made elsewhere, by a function that has no score among its arguments.

Flow: bytes, under limits -> pixel count from the header -> strict decode of
every frame (`frames`) -> preprocessing and model, both fixed by one model card
-> calibrated score -> a band at an operating point fitted on held-out media
-> `Detection` (`detection`).

Invariants:

- Untrusted bytes have a limit before they have a decoder, and reach only the
  decoder of the type they were sniffed as.
- There are four answers besides "signs of synthesis", and none of them is
  "authentic". Where the media lies outside what was measured, the answer is an
  `Abstention`, not a number.
- Every score carries what it takes to compute it again.
- Neither a `Detection` nor an `Abstention` has a truth value.
- A missing decoder or model is an error, never a default.

What is here now: the evidence types, and the decoding of still pictures. Not
here: decoding of video and sound. Memory and processor time are limited by
the worker that calls, not here.
"""
