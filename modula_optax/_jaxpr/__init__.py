"""A traced model for whoever reads it: its flat program, one table of primitives, evaluation."""

from modula_optax._jaxpr._evaluate import apply as apply
from modula_optax._jaxpr._evaluate import concrete as concrete
from modula_optax._jaxpr._evaluate import constant as constant
from modula_optax._jaxpr._evaluate import evaluate as evaluate
from modula_optax._jaxpr._model import Model as Model
from modula_optax._jaxpr._model import trace_model as trace_model
from modula_optax._jaxpr._outside import register_primitive as register_primitive
from modula_optax._jaxpr._outside import untold as untold
from modula_optax._jaxpr._primitives import PRIMITIVES as PRIMITIVES
from modula_optax._jaxpr._primitives import REDUCING as REDUCING
from modula_optax._jaxpr._primitives import Kind as Kind
from modula_optax._jaxpr._primitives import Primitive as Primitive
from modula_optax._jaxpr._primitives import Slope as Slope
from modula_optax._jaxpr._primitives import named as named
from modula_optax._jaxpr._primitives import rule_of as rule_of
from modula_optax._jaxpr._program import Block as Block
from modula_optax._jaxpr._program import Loop as Loop
from modula_optax._jaxpr._program import Op as Op
from modula_optax._jaxpr._program import Program as Program
from modula_optax._jaxpr._program import carries_of as carries_of
from modula_optax._jaxpr._program import flatten as flatten
from modula_optax._jaxpr._program import operations as operations
from modula_optax._jaxpr._program import producers_of as producers_of
from modula_optax._jaxpr._softmax import softmax_of as softmax_of
from modula_optax._jaxpr._source import is_backward as is_backward
from modula_optax._jaxpr._source import source as source
