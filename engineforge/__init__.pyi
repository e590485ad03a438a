from engineforge.cli.library import load_specs as load_specs
from engineforge.cli.serving import fall_back as fall_back
from engineforge.cli.serving import follow as follow
from engineforge.cli.serving import pull as pull
from engineforge.errors import EngineForgeError as EngineForgeError
from engineforge.errors import HostUnfit as HostUnfit
from engineforge.errors import Problem as Problem
from engineforge.errors import PromotionRefused as PromotionRefused
from engineforge.errors import SpecError as SpecError
from engineforge.errors import StoreCorrupt as StoreCorrupt
from engineforge.errors import Untrusted as Untrusted
from engineforge.errors import UsageError as UsageError
from engineforge.project.outcomes import Results as Results
from engineforge.project.plans import Plan as Plan
from engineforge.project.plans import PlannedVariant as PlannedVariant
from engineforge.project.specs import Specs as Specs
from engineforge.promotion.pulling import Pulled as Pulled
from engineforge.runtime.engine import Engine as Engine
from engineforge.worker.outcome import Built as Built
from engineforge.worker.outcome import Checked as Checked
from engineforge.worker.outcome import Event as Event
from engineforge.worker.outcome import Failed as Failed
from engineforge.worker.outcome import Outcome as Outcome
from engineforge.worker.outcome import Prepared as Prepared
from engineforge.worker.outcome import Ranked as Ranked
from engineforge.worker.outcome import Rebuilt as Rebuilt
from engineforge.worker.outcome import Reused as Reused
from engineforge.worker.outcome import Skipped as Skipped
from engineforge.worker.outcome import Timed as Timed

__all__: list[str]
__version__: str
