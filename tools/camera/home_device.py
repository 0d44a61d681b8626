"""A device of a home on this machine, as a camera: its folder is the home's, its service is the home itself."""

from dataclasses import replace

from tools.camera.folder import Camera, read_camera
from tools.camera.inside import ADDRESS
from tools.errors import DeviceUnknownError
from tools.home import SERVICE, Home, require_device_name


def camera_of(home: Home, name: str) -> Camera:
    """The camera of an enrolled device; never the home's own signing service, which captures nothing."""
    require_device_name(name)
    if name == SERVICE or name not in home.devices():
        raise DeviceUnknownError(f"no device named {name} is enrolled in this home")
    camera = read_camera(home.device_folder(name))
    return replace(camera, name=name, service=ADDRESS, log_keys=home.own.keys)
