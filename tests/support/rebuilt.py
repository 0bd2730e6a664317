"""What a pickle can say, and PyTorch never writes."""


class Rebuilt:
    """Unpickles into what a function makes of arguments."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced
