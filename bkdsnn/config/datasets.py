"""The input of a network: datasets, the crop of a test image, augmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from bkdsnn.config.identity import Part

Interpolation = Literal["bilinear", "bicubic"]


class Digits(Part):
    """How embedded images are drawn from scikit-learn's handwritten digits (real scans, 8 x 8, 1,797 of them)."""

    digits: Literal[1, 2] = Field(default=1, description="digits in one image; two form the number 00-99, its class")
    train: int = Field(gt=0, description="number of training images")
    test: int = Field(gt=0, description="number of test images")
    clutter: int = Field(default=0, ge=0, description="distracting fragments of other digits in each image")
    noise: float = Field(default=0.0, ge=0, description="standard deviation of Gaussian noise, intensities in [0, 1]")
    shift: int = Field(default=0, ge=0, description="largest displacement of a digit, pixels")


class Simulated(Part):
    """How embedded events are made: scikit-learn's digits move on a closed path before a simulated sensor."""

    train: int = Field(gt=0, description="number of training recordings")
    test: int = Field(gt=0, description="number of test recordings")
    threshold: float = Field(default=0.3, gt=0, description="change of log intensity that makes an event")
    amplitude: float = Field(default=3.0, gt=0, description="half width of the path, pixels of the sensor")
    noise: float = Field(default=0.0, ge=0, description="events per pixel and second that nothing caused")


class Events(Part):
    """Recordings of an event camera, each integrated to T frames of two channels: OFF and ON events counted by pixel.

    If the sensor is larger than `image_size`, event addresses are scaled down by one factor for height and width; a
    smaller sensor is centred in the frame.
    """

    layout: Literal["cifar10-dvs", "dvs128-gesture", "n-caltech101", "n-mnist", "n-cars", "dvs-lip"] = Field(
        description="published set whose folders and file format these are"
    )
    sensor: tuple[int, int] = Field(description="height and width, pixels")
    slices: Literal["count", "time"] = Field(
        default="count", description="the T time slices have equal numbers of events, or equal duration (D-103, D-104)"
    )
    simulated: Simulated | None = Field(default=None, description="how the recordings are made; none: they are given")


class Dataset(Part):
    """Labelled images of one size, or labelled recordings of events whose frames have one size.

    `label`, `page` and `folder` do not affect results, and are no part of a run's identity.
    """

    name: str = Field(description="the dataset's key in datasets.yaml")
    format: Literal["cifar-binary", "image-folder", "digits", "events"] = Field(
        description="CIFAR's binary files, a folder of image files per class, or embedded digits; recordings of events"
    )
    classes: int = Field(gt=1, description="number of classes")
    image_size: int = Field(gt=0, description="height and width of images or frames, pixels")
    mean: tuple[float, ...] = Field(default=(), description="of images, by channel; frames are counts, as they are")
    std: tuple[float, ...] = Field(default=(), description="standard deviation of images, by channel")
    digits: Digits | None = Field(default=None, description="how the images are drawn; for format digits")
    events: Events | None = Field(default=None, description="what the recordings are like; for format events")
    label: str = Field(default="", exclude=True, description="the name that tables and figures print")
    page: str = Field(default="", exclude=True, description="where the data may be had")
    folder: str = Field(default="", exclude=True, description="expected folder below the data root")

    @property
    def embedded(self) -> bool:
        """Whether the images come with an installed package, so that the user need not provide them."""
        return self.digits is not None or (self.events is not None and self.events.simulated is not None)

    @property
    def channels(self) -> int:
        """Number of input channels: three colours, or two for OFF and ON events."""
        return 2 if self.events else 3

    @model_validator(mode="after")
    def _consistent(self) -> Dataset:
        for key in ("digits", "events"):
            if (self.format == key) != (getattr(self, key) is not None):
                state = "missing" if self.format == key else f"given with format '{self.format}'"
                raise ValueError(f"'{key}' is {state}; expected it with format '{key}', and with no other")
        for key in ("mean", "std"):
            if len(found := getattr(self, key)) != (expected := 0 if self.events else self.channels):
                raise ValueError(f"'{key}' has {len(found)} numbers, format '{self.format}' needs {expected}")
        return self


class View(Part):
    """How a test image is cut from an image file: scale the shorter edge to image_size / crop, then crop the centre."""

    crop: float = Field(default=0.875, gt=0, le=1, description="side of the crop over the shorter edge")
    interpolation: Interpolation = Field(default="bilinear", description="how images are scaled")


class ResizedCrop(Part):
    """A crop of random area and shape, scaled to the image's size (RandomResizedCrop; Szegedy et al., 2015)."""

    scale: tuple[float, float] = Field(default=(0.08, 1.0), description="range of the crop's share of the image's area")
    ratio: tuple[float, float] = Field(default=(3 / 4, 4 / 3), description="range of the crop's width over its height")
    interpolation: Interpolation = Field(default="bilinear", description="how crops are scaled")

    @model_validator(mode="after")
    def _ordered(self) -> ResizedCrop:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"'{name}' is {low} to {high}; expected a range of positive numbers")
        return self


class Augment(Part):
    """Training-time augmentation, applied in the order of the fields; validation never uses it.

    Boxes are erased before the recipe mixes images, as in DeiT, or with `erasing_mixed` in the mixed images, as the
    batches of timm's prefetcher are (D-178).
    """

    crop_padding: int = Field(default=0, ge=0, description="random crop after zero padding by so many pixels")
    resized_crop: ResizedCrop | None = Field(default=None, description="random crop of random size and shape")
    flip: bool = Field(default=False, description="mirror half of the images horizontally, at random")
    randaugment: str | None = Field(default=None, description="timm's notation, such as rand-m9-n1-mstd0.4-inc1")
    neuromorphic: bool = Field(default=False, description="one of shear, translation, rotation, cutout, for events")
    erasing: float = Field(default=0.0, ge=0, le=1, description="probability of erasing a random box")
    erasing_mode: Literal["const", "pixel"] = Field(default="const", description="fill: the mean colour, or noise")
    erasing_mixed: bool = Field(default=False, description="erase boxes of the mixed images")
