"""What a phone's shell finds that a Debian board has not: Android's programs, and stand-ins for its services."""

from __future__ import annotations

from pathlib import Path

PROPERTIES = {
    "ro.product.name": "emulated",
    "ro.product.model": "Emulated arm64",
    "ro.product.device": "emulated",
    "ro.product.manufacturer": "qemu",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
    "ro.hardware": "qemu",
    "ro.soc.model": "qemu-user",
}

BATTERY = """\
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 500000
  Max charging voltage: 5000000
  Charge counter: 3300000
  status: 2
  health: 2
  present: true
  level: 87
  scale: 100
  voltage: 4210
  temperature: 283
  technology: Li-ion
"""

THERMAL = """\
IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 1
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=31.2, mType=3, mName=skin, mStatus=0}
HAL Ready: true
"""

SUPPLY = {
    "type": "Battery\n",
    "status": "Discharging\n",
    "capacity": "87\n",
    "current_now": "-312500\n",
    "voltage_now": "4210000\n",
    "temp": "283\n",
    "charge_counter": "3300000\n",
}
"""The fuel gauge: microamperes, negative while discharging; microvolts; microampere-hours; tenths of a degree."""

_GETPROP = """\
#!/system/bin/sh
if [ $# -eq 0 ]; then
    while IFS='=' read -r name value; do echo "[$name]: [$value]"; done < /system/build.prop
else
    while IFS='=' read -r name value; do
        if [ "$name" = "$1" ]; then echo "$value"; exit; fi
    done < /system/build.prop
    echo "$2"
fi
"""

_DUMPSYS = """\
#!/system/bin/sh
case $1 in
    battery | thermalservice) cat "/system/etc/$1.txt" ;;
    *) echo "Can't find service: $1" >&2 ;;
esac
"""

# programs of toybox that a phone's /system/bin has; only those this toybox knows are linked
_PROGRAMS = """
    basename cat chmod chown cksum cmp cp cut date dd df dirname du echo env expr false file find getconf grep head id
    kill killall ln ls md5sum mkdir mkfifo mktemp mv nice nohup nproc od paste pgrep pidof pkill printenv printf ps pwd
    readlink realpath renice rm rmdir sed seq setsid sha1sum sha256sum sleep sort split stat stty sync tail tar tee test
    time timeout touch tr true truncate tty uname uniq uptime usleep wc which whoami xargs yes
""".split()


def write_android(layer: Path) -> None:
    """Adds to a layer with mksh and toybox what a phone has beside them."""
    programs = layer / "system/bin"
    programs.mkdir(parents=True)
    for name in _PROGRAMS:
        (programs / name).symlink_to("../../bin/toybox")
    (programs / "sh").symlink_to("../../bin/mksh")
    for name, text in (("getprop", _GETPROP), ("dumpsys", _DUMPSYS)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    texts = {
        "system/build.prop": "".join(f"{name}={value}\n" for name, value in PROPERTIES.items()),
        "system/etc/battery.txt": BATTERY,
        "system/etc/thermalservice.txt": THERMAL,
        "etc/passwd": "root:x:0:0::/:/system/bin/sh\nshell:x:2000:2000::/data/local/tmp:/system/bin/sh\n",
        "etc/group": "root:x:0:\nshell:x:2000:\n",
        **{f"sys/class/power_supply/battery/{name}": text for name, text in SUPPLY.items()},
    }
    for name, text in texts.items():
        path = layer / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (layer / "data/local/tmp").mkdir(parents=True)
