"""Keras 3: what `keras.applications` has, and models of its layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
from keras import layers

from tests.real._keras import built
from tests.real._model import real_models


def image(size: int = 64) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)


def application(name: str, size: int = 64, training: bool = False, **changes: Any):
    def make() -> keras.Model:
        return getattr(keras.applications, name)(
            weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None, **changes
        )

    return built(make, image(size), own={r".*layer_scale/variable\w*": "gain > 0"}, training=training)


def functional(*shape: int, dtype: str = "float32"):
    """A model of layers: the decorated function leads from a symbolic input to an output."""

    def model(layers_of: Callable[[Any], Any]):
        def make() -> keras.Model:
            x = keras.Input(shape, dtype=dtype)
            return keras.Model(x, layers_of(x))

        return built(make, jax.ShapeDtypeStruct((2, *shape), dtype))

    return model


def transformer(attention: Callable[[], Any], norm: Callable[[], Any]):
    def layers_of(tokens: Any) -> Any:
        x = layers.Embedding(500, 64)(tokens)
        for _ in range(2):
            h = norm()(x)
            x = x + attention()(h, h)
            h = norm()(x)
            x = x + layers.Dense(64)(layers.Dense(256, activation="gelu")(h))
        return layers.Dense(500)(norm()(x))

    return functional(16, dtype="int32")(layers_of)


def recurrent(cell: Callable[..., Any]):
    def layers_of(tokens: Any) -> Any:
        x = layers.Embedding(500, 32)(tokens)
        x = layers.Bidirectional(cell(24, return_sequences=True))(x)
        return layers.Dense(5)(cell(20)(x))

    return functional(12, dtype="int32")(layers_of)


@functional(24, 24, 3)
def unet(x: Any) -> Any:
    skip = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.Conv2D(16, 3, strides=2, padding="same", groups=4)(skip)
    x = layers.GroupNormalization(4)(layers.SeparableConv2D(24, 3, padding="same", depth_multiplier=2)(x))
    x = layers.Conv2DTranspose(12, 3, strides=2, padding="same")(keras.activations.relu(x))
    return layers.Conv2D(5, 1)(layers.concatenate([x, skip]))


real_models(
    "keras",
    {
        "resnet50": application("ResNet50"),
        "resnet50v2": application("ResNet50V2", training=True),
        "vgg16": application("VGG16"),
        "densenet121": application("DenseNet121"),
        "mobilenet": application("MobileNet", alpha=0.5),
        "mobilenet_v2": application("MobileNetV2", alpha=0.5),
        "mobilenet_v3": application("MobileNetV3Small"),
        "efficientnet_b0": application("EfficientNetB0"),
        "efficientnet_v2": application("EfficientNetV2B0"),
        "convnext_tiny": application("ConvNeXtTiny"),
        "xception": application("Xception", size=75),
        "inception_v3": application("InceptionV3", size=75),
        "gpt": transformer(lambda: layers.MultiHeadAttention(4, 16), lambda: layers.LayerNormalization()),
        "grouped_queries": transformer(lambda: layers.GroupQueryAttention(16, 4, 2), lambda: layers.RMSNormalization()),
        "lstm": recurrent(layers.LSTM),
        "gru": recurrent(layers.GRU),
        "unet": unet,
    },
)
