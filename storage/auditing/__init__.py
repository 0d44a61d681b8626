"""What `storage.audit` is made of: its report, its state, and what it asks of notes and payloads.

    report      codes, findings, the report
    state       where an audit ended, for one that goes on from there
    terms       which of the log's keys had to sign a checkpoint
    payloads    what lies behind the commitments, what was erased, and whether the log ended
    lines       what a witnessed note adds to the published one
    notes       every checkpoint that was signed, and what others remember of them

`report`, `terms` and `lines` are pure; the others read one snapshot.
"""
