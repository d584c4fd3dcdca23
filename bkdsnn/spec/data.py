"""What a network is shown: datasets, the view of a test image, augmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from bkdsnn.spec.base import Strict

Interpolation = Literal["bilinear", "bicubic"]


class Digits(Strict):
    """How embedded images are drawn from scikit-learn's handwritten digits (real scans, 8 x 8, 1,797 of them)."""

    digits: Literal[1, 2] = 1
    train: int = Field(gt=0)
    test: int = Field(gt=0)
    clutter: int = Field(default=0, ge=0, description="distracting fragments of other digits in each image")
    noise: float = Field(default=0.0, ge=0, description="standard deviation of Gaussian noise, intensities in [0, 1]")
    shift: int = Field(default=0, ge=0, description="largest displacement of a digit, pixels")


class Dataset(Strict):
    """Labelled images of one size, three channels. `label`, `page` and `folder` do not enter the identity."""

    name: str
    format: Literal["cifar-binary", "image-folder", "digits"]
    classes: int = Field(gt=1)
    image_size: int = Field(gt=0)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    digits: Digits | None = None
    label: str = Field(default="", exclude=True)
    page: str = Field(default="", exclude=True, description="where the data may be had")
    folder: str = Field(default="", exclude=True, description="expected folder below the data root")

    @property
    def embedded(self) -> bool:
        """Whether the images come with a dependency instead of from the user."""
        return self.format == "digits"

    @model_validator(mode="after")
    def _digits_belong(self) -> Dataset:
        if self.embedded != (self.digits is not None):
            raise ValueError("the key 'digits' belongs to format 'digits', and only there")
        return self


class View(Strict):
    """How a test image is cut out of a file: shorter edge scaled to image_size / crop, then the centre."""

    crop: float = Field(default=0.875, gt=0, le=1)
    interpolation: Interpolation = "bilinear"


class ResizedCrop(Strict):
    """RandomResizedCrop (Szegedy et al., 2015): area as a share of the image's, aspect ratio width / height."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"

    @model_validator(mode="after")
    def _ordered(self) -> ResizedCrop:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"'{name}' is {low} to {high}; expected a range of positive numbers")
        return self


class Augment(Strict):
    """Training-time augmentation, applied in the order of the fields; validation never uses it."""

    crop_padding: int = Field(default=0, ge=0, description="random crop after zero padding by so many pixels")
    resized_crop: ResizedCrop | None = None
    flip: bool = False
    randaugment: str | None = Field(default=None, description="timm's notation, such as rand-m9-n1-mstd0.4-inc1")
    erasing: float = Field(default=0.0, ge=0, le=1, description="probability of erasing a random box")
    erasing_mode: Literal["const", "pixel"] = Field(default="const", description="fill: the mean colour, or noise")
