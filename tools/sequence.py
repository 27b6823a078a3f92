"""The integers that random cases are made of, by the same few lines here and in tests/eval.rs."""

MASK = (1 << 64) - 1


class Numbers:
    """Knuth's linear congruential sequence; the upper 31 bits."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & MASK
        return (self.state >> 33) % n
