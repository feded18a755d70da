"""A user's outcome function, for tests: exact equality, two points higher."""


def shifted_em(answer, golds, trajectory):
    return 2.0 + (answer in golds)
