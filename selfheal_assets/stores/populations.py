"""The population that histories are simulated over, from a use case's source."""

from selfheal_assets.core.population import Population, fit_population
from selfheal_assets.settings import Settings
from selfheal_assets.stores.sources import read_cases


def population_of(settings: Settings) -> Population:
    """The labelled cases of the installation's use case, and the known model of their outcomes, fitted once.

    Raises:
        SourceError: the source cannot be read.
        SimulationError: too few of its outcomes are known.
    """
    case, known = settings.case, read_cases(settings.case, settings)
    return fit_population(known.frame, known.labels, case.features, case.label)
