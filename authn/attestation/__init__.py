"""Evidence that a device's key is kept in hardware, judged here without asking anyone.

    device --Evidence--> android.judge | app_attest.judge | tpm.judge --Judgement--> whoever issues
                                 ^
              Expectation: challenge, requested key, product's rules, status list, roots

`judgement` holds the types. Each verifier is a pure function of the evidence,
an expectation and a moment: no clock, file or socket. So evidence that is kept
can be judged again. Give the moment of the enrolment, for dates and patch
levels, and the newest status list, for keys that leaked since; `serials` say
which kept judgements a new list can change.

What the labels prove, of the key that will sign claims:

- E0: nothing. Also the most that App Attest gives, since the key it attests
  signs requests and never a claim.
- E1: its operator says so. The device's own word is no more than E0, and neither is a TPM's whose maker is
  not known: software can write either.
- E2: it was generated in, and cannot leave, hardware whose maker we pinned.
- E3: E2, and the product's own app asked for it on a device with locked,
  verified boot and recent patches.

No label says what was in front of the lens, nor what happened to the device
after the enrolment. A maker's leaked key passes until the status list names
it; fetching the list, and deciding that a device came back with another pin,
are left to others.

`roots` and `status_list` are the data that the Android and Apple verifiers
rest on; `key_description` reads what an Android device states of a key, and
`certificates` the chain that signed it.
"""
