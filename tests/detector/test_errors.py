"""Every error has a code of its own and tells the user what to do."""

import re

from detector import errors


def test_every_error_has_its_own_code_and_a_remedy():
    children = errors.Error.__subclasses__()
    codes = [child.code for child in (errors.Error, *children)]
    assert len(set(codes)) == len(codes) > 5
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)+", code) for code in codes)
    assert all(child.remedy for child in children)
