from storage import errors


def test_every_error_has_a_code_of_its_own_and_a_remedy() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Error)
    ]
    assert len({kind.code for kind in kinds}) == len(kinds) > 20
    for kind in kinds:
        assert kind.code == kind.code.lower().replace(" ", "-")
        assert kind.remedy.endswith(".")
        assert kind.__doc__
