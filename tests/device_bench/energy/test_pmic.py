import doctest

import pytest

from device_bench.energy import pmic as energy_pmic
from device_bench.energy.pmic import READ, find_pmic, parse_watts
from device_bench.energy.source import NoSource, SourceError

OUTPUT = """   3V7_WL_SW_A current(0)=0.00195138A
   3V3_SYS_A current(1)=0.04489440A
   1V8_SYS_A current(2)=0.16003520A
  DDR_VDD2_A current(3)=0.01170924A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.18151740A
    0V8_SW_A current(6)=0.32009980A
  VDD_CORE_A current(7)=0.71976000A
   3V3_DAC_A current(17)=0.00036630A
   3V3_ADC_A current(18)=0.00030525A
   0V8_AON_A current(16)=0.00439560A
      HDMI_A current(22)=0.01025640A
   3V7_WL_SW_V volt(8)=3.69750300V
   3V3_SYS_V volt(9)=3.30876200V
   1V8_SYS_V volt(10)=1.79487000V
  DDR_VDD2_V volt(11)=1.11080100V
  DDR_VDDQ_V volt(12)=0.61172220V
   1V1_SYS_V volt(13)=1.10439500V
    0V8_SW_V volt(14)=0.80347790V
  VDD_CORE_V volt(15)=0.87683200V
   3V3_DAC_V volt(20)=3.30818700V
   3V3_ADC_V volt(21)=3.30790800V
   0V8_AON_V volt(19)=0.79718700V
      HDMI_V volt(23)=5.11188000V
     EXT5V_V volt(24)=5.10876000V
      BATT_V volt(25)=0.00000000V
"""
WATTS = (
    0.00195138 * 3.697503
    + 0.0448944 * 3.308762
    + 0.1600352 * 1.79487
    + 0.01170924 * 1.110801
    + 0.1815174 * 1.104395
    + 0.3200998 * 0.8034779
    + 0.71976 * 0.876832
    + 0.0003663 * 3.308187
    + 0.00030525 * 3.307908
    + 0.0043956 * 0.797187
    + 0.0102564 * 5.11188
)


def test_every_rail_with_a_current_counts_and_the_input_does_not():
    assert parse_watts(OUTPUT) == pytest.approx(WATTS)
    assert 1.5 < WATTS < 1.7


def test_a_line_without_an_index_is_read_too():
    assert parse_watts("VDD_CORE_A=2.0A\nVDD_CORE_V=0.9V\n") == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no current"),
        ('error=1 error_msg="Command not registered"', "names no current"),
        ("EXT5V_V volt(24)=5.1V", "names no current"),
        ("VDD_CORE_A current(7)=muchA\nVDD_CORE_V volt(15)=0.9V", "names no current"),
        ("VDD_CORE_A current(7)=1.0A\n3V3_SYS_V volt(9)=3.3V", r"has no voltage.*VDD_CORE"),
        ("VDD_CORE_A current(7)=1.0A\nVDD_CORE_V volt(15)=", r"has no voltage.*VDD_CORE"),
    ],
)
def test_other_output_is_an_error_of_the_source(text, said):
    with pytest.raises(SourceError, match=said):
        parse_watts(text)


def test_the_chip_is_polled():
    asked = []

    def command(words):
        asked.append(tuple(words))
        return OUTPUT

    source = find_pmic(command=command, watch=lambda do, seconds: lambda: None)
    assert not isinstance(source, NoSource)
    assert "PMIC" in source.name
    assert source.tier == "measured"
    source.start()
    assert source.read_j() > 0
    assert set(asked) == {READ}


def test_a_board_without_the_chip_is_a_reason():
    def command(words):
        raise SourceError("vcgencmd cannot be run", got="No such file or directory")

    found = find_pmic(command=command)
    assert isinstance(found, NoSource)
    assert "vcgencmd cannot be run" in found.reason


def test_the_example_is_true():
    result = doctest.testmod(energy_pmic)
    assert (result.failed, result.attempted) == (0, 1)
