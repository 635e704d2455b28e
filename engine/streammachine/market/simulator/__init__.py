"""A local exchange for tests and demos: the real protocols of the exchanges over one tape."""

from streammachine.market.simulator.faults.fault import Fault
from streammachine.market.simulator.faults.scripts import Script, random_script
from streammachine.market.simulator.simulator import Simulator
from streammachine.market.simulator.tape.tape import Tape, TapeTrade

__all__ = ["Fault", "Script", "Simulator", "Tape", "TapeTrade", "random_script"]
