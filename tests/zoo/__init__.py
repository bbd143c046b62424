"""A zoo of models, each with the role and the axes of every parameter, written by hand from the framework's layout."""

from tests.zoo._model import ZooModel as ZooModel
from tests.zoo._model import axes_of as axes_of
from tests.zoo import equinox as equinox
from tests.zoo import haiku as haiku
from tests.zoo import linen as linen
from tests.zoo import ninjax as ninjax
from tests.zoo import nnx as nnx
from tests.zoo import plain as plain
from tests.zoo import plain_conventions as plain_conventions
from tests.zoo import plain_copies as plain_copies
from tests.zoo import plain_derivatives as plain_derivatives
from tests.zoo import plain_further as plain_further
from tests.zoo import plain_members as plain_members
from tests.zoo import plain_modulated as plain_modulated
from tests.zoo import plain_nets as plain_nets
from tests.zoo import plain_orders as plain_orders
from tests.zoo import plain_papers as plain_papers
from tests.zoo import plain_products as plain_products
from tests.zoo import plain_published as plain_published
from tests.zoo import plain_recent as plain_recent
from tests.zoo import plain_varied as plain_varied
from tests.zoo._model import ZOO as ZOO
