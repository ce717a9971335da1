"""What the tests say of families."""

from sdmobile.families import family_named

SD = family_named("stable-diffusion")
COMPONENTS = SD.names
