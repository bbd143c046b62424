"""A traced model for whoever reads it: its flat program, one table of primitives, evaluation."""

from modula_optax._jaxpr._evaluate import apply as apply, concrete as concrete, constant as constant
from modula_optax._jaxpr._evaluate import evaluate as evaluate
from modula_optax._jaxpr._model import Model as Model, trace_model as trace_model
from modula_optax._jaxpr._outside import register_primitive as register_primitive, untold as untold
from modula_optax._jaxpr._primitives import PRIMITIVES as PRIMITIVES, REDUCING as REDUCING, Kind as Kind
from modula_optax._jaxpr._primitives import Primitive as Primitive, Slope as Slope, named as named, rule_of as rule_of
from modula_optax._jaxpr._program import Block as Block, Loop as Loop, Op as Op, Program as Program
from modula_optax._jaxpr._program import carries_of as carries_of, flatten as flatten, operations as operations
from modula_optax._jaxpr._program import producers_of as producers_of
from modula_optax._jaxpr._softmax import softmax_of as softmax_of
from modula_optax._jaxpr._source import is_backward as is_backward, source as source
