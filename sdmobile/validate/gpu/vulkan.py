"""Asks the Vulkan loader which device it offers, through the C interface that every driver has.

Run as `python -m sdmobile.validate.gpu.vulkan`, it prints the device as JSON. Source of structures and numbers: the
Vulkan 1.2 specification, `vkEnumeratePhysicalDevices`, `VkPhysicalDeviceProperties2` and
`VkPhysicalDeviceDriverProperties`.
"""

from __future__ import annotations

import ctypes
import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdmobile.validate.gpu.places import VulkanDriver

LOADER = "libvulkan.so.1"
_API_1_2 = (1 << 22) | (2 << 12)
_TYPE_APPLICATION, _TYPE_INSTANCE, _TYPE_PROPERTIES, _TYPE_DRIVER = 0, 1, 1000059001, 1000196000
_INCOMPLETE = 5  # there are more devices than were asked for
_TEXT = 256
_LOAD_SECONDS = 60.0
_NAME_OFFSET = 20  # behind apiVersion, driverVersion, vendorID, deviceID, deviceType
_LIMITS_OFFSET = 296  # name and the cache's 16-byte UUID end at 292; the limits start on a multiple of 8
_STORAGE_RANGE_INDEX = 7  # maxStorageBufferRange is the eighth 32-bit limit


@dataclass(frozen=True)
class VulkanDevice:
    """A physical device.

    Args:
        name: as the driver calls it.
        driver: the driver's name and version, as "llvmpipe Mesa 25.0.7 (LLVM 15.0.6)".
        max_storage_buffer_range: bytes that one storage buffer binding may span.
    """

    name: str
    driver: str
    max_storage_buffer_range: int


class _Application(ctypes.Structure):
    """VkApplicationInfo."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api_version", ctypes.c_uint32),
    )


class _Instance(ctypes.Structure):
    """VkInstanceCreateInfo without layers or extensions."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.c_void_p),
        ("layer_count", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("extension_count", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


class _Driver(ctypes.Structure):
    """VkPhysicalDeviceDriverProperties."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("id", ctypes.c_int),
        ("name", ctypes.c_char * _TEXT),
        ("info", ctypes.c_char * _TEXT),
        ("conformance", ctypes.c_uint8 * 4),
    )


class _Properties(ctypes.Structure):
    """VkPhysicalDeviceProperties2; the properties have 824 bytes, the rest is slack."""

    _fields_ = (("type", ctypes.c_int), ("next", ctypes.c_void_p), ("properties", ctypes.c_uint64 * 256))


def device_of(driver: VulkanDriver) -> VulkanDevice:
    """Returns the device of a driver, loaded in a process of its own.

    Raises:
        MissingDependencyError: it does not load.
    """
    from sdmobile.validate.gpu.commands import run_quietly

    command = [sys.executable, "-m", "sdmobile.validate.gpu.vulkan"]
    text = run_quietly(command, "load the Vulkan driver", environment=driver.environment(), timeout=_LOAD_SECONDS)
    return VulkanDevice(**json.loads(text.splitlines()[-1]))


def probe_device() -> VulkanDevice:
    """Returns the first device that the Vulkan loader of this process offers.

    Raises:
        RuntimeError: there is no loader or no device.
    """
    try:
        library = ctypes.CDLL(LOADER)
    except OSError as error:
        raise RuntimeError(f"no Vulkan loader: {error}") from error
    application = _Application(type=_TYPE_APPLICATION, api_version=_API_1_2)
    info = _Instance(type=_TYPE_INSTANCE, application=ctypes.addressof(application))
    instance = ctypes.c_void_p()
    result = library.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance))
    if result != 0:
        raise RuntimeError(f"vkCreateInstance failed with result {result}")
    try:
        count, device = ctypes.c_uint32(1), ctypes.c_void_p()
        result = library.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), ctypes.byref(device))
        if result not in (0, _INCOMPLETE) or count.value == 0:
            raise RuntimeError(f"the Vulkan loader offers no device (result {result})")
        return _describe(library, device)
    finally:
        library.vkDestroyInstance(instance, None)


def _describe(library: ctypes.CDLL, device: ctypes.c_void_p) -> VulkanDevice:
    driver = _Driver(type=_TYPE_DRIVER)
    properties = _Properties(type=_TYPE_PROPERTIES, next=ctypes.addressof(driver))
    library.vkGetPhysicalDeviceProperties2(device, ctypes.byref(properties))
    raw = bytes(properties.properties)
    name = raw[_NAME_OFFSET : _NAME_OFFSET + _TEXT].split(b"\0")[0].decode()
    limit = ctypes.c_uint32.from_buffer_copy(raw, _LIMITS_OFFSET + 4 * _STORAGE_RANGE_INDEX).value
    return VulkanDevice(name, f"{driver.name.decode()} {driver.info.decode()}", limit)


if __name__ == "__main__":
    print(json.dumps(asdict(probe_device())))
