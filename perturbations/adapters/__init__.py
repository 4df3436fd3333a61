"""Attacks of other libraries, with our contract around them: `torchattacks:NAME` and `foolbox:NAME`.

The tables list them without importing the libraries, which are optional; `perturbations.core` asks for this package
when it lists the catalogue or when a name has a colon.
"""

from perturbations.adapters import of_foolbox, of_torchattacks
from perturbations.adapters.foreign import add_all

add_all("torchattacks", of_torchattacks.TABLE, of_torchattacks.run)
add_all("foolbox", of_foolbox.TABLE, of_foolbox.run)
