"""Kernels laid out as (batch, input, output), told by the bias beside them."""

from egd_optax.leaves.named_layouts import Shape, Sides

MATRIX = Sides((0,), (1,))


def all_into_the_last(shape: Shape) -> Sides:
    """A convolution's (window, in, out): from the whole window to its channels."""
    return Sides(tuple(range(len(shape) - 1)), (len(shape) - 1,))


def all_into_the_last_but_one(shape: Shape) -> Sides:
    """A transposed convolution's (window, out, in)."""
    rank = len(shape)
    return Sides((*range(rank - 2), rank - 1), (rank - 2,))


def gates_of(from_hidden: Shape) -> int:
    """How many gates the kernel from the hidden state (hidden, gates · hidden) has."""
    if len(from_hidden) < 2 or not from_hidden[-2]:
        return 1
    return from_hidden[-1] // from_hidden[-2]


def outputs(shape: Shape, sides: Sides) -> Shape:
    """The shape of what a kernel puts out, and of a bias added to it."""
    return tuple(shape[axis] for axis in sides.output)


def confirmed_by_bias(
    shape: Shape, sides: Sides | None, bias: Shape | None
) -> Sides | None:
    """The sides that a name tells, those of the bias where it speaks against them."""
    if bias and (sides is None or bias != outputs(shape, sides)):
        return told_by_bias(shape, bias)
    return sides


def told_by_bias(shape: Shape, bias: Shape) -> Sides | None:
    """The sides of a kernel by the bias (batch, output); None unless one way fits.

    A kernel is (batch, input, output), or a transposed convolution's.
    """
    rank = len(shape)
    inputs = rank - len(bias)  # how many axes
    fit = [
        Sides(tuple(range(batch, batch + inputs)), tuple(range(batch + inputs, rank)))
        for batch in range(len(bias))
        if inputs > 0 and shape[:batch] + shape[batch + inputs :] == bias
    ]
    # A kernel of two axes is no convolution.
    if not fit and rank > 2 and bias == shape[-2:-1]:
        fit = [all_into_the_last_but_one(shape)]
    return fit[0] if len(fit) == 1 else None
