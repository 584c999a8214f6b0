"""What two scripts share is the same text in both."""

import ast
from itertools import combinations

import iql_bst
import morse_only
import pytest
import td3_bst
from conftest import ROOT

OWN = {  # what each script has of its own under a name that another one uses too
    "Args": "each algorithm's arguments",
    "DOMAINS": "each algorithm's values for a domain",
    "DEFAULTS": "what it has where a domain needs nothing else",
    "LIMITS": "those of its own arguments",
    "NEEDS": "those of its own arguments",
    "critic_loss": "TD3's target is its policy's action, IQL's the value network",
    "make_agent": "each algorithm's networks and optimisers",
    "draw": "TD3's critics need noise too",
    "update": "each algorithm's update",
    "train": "IQL scales returns and has a schedule; which run needs a Morse network",
}
APART = OWN | {"main": "morse_only.py trains no policy from the data, and draws"}  # of morse_only.py and another
SCRIPTS = ("td3_bst.py", "iql_bst.py", "morse_only.py")


def definitions(text):
    """Name of every top-level function, class and constant: its source."""
    found = {}
    for node in ast.parse(text).body:
        names = [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else []
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        found |= dict.fromkeys(names, ast.get_source_segment(text, node))
    return found


def drifted(a, b):
    a, b = definitions(a), definitions(b)
    return {name for name in a.keys() & b.keys() if a[name] != b[name]}


@pytest.mark.parametrize("pair", combinations(SCRIPTS, 2), ids="-".join)
def test_shared_code_is_the_same_text(pair):
    texts = [(ROOT / name).read_text() for name in pair]
    assert drifted(*texts) <= (APART if "morse_only.py" in pair else OWN).keys()
    assert len(definitions(texts[0]).keys() & definitions(texts[1]).keys()) > 20


def test_an_edit_of_one_copy_is_noticed():
    ours, theirs = ((ROOT / name).read_text() for name in SCRIPTS[:2])
    edited = theirs.replace("0.5 * self.kernel_scale**2", "self.kernel_scale**2")
    assert drifted(ours, edited) - drifted(ours, theirs) == {"MorseNetwork"}
    assert drifted(ours, theirs.replace("GOAL_RADIUS = 0.45", "GOAL_RADIUS = 0.5")) - OWN.keys() == {"GOAL_RADIUS"}


def test_nothing_on_the_list_is_stale():
    """Each exception is one: the scripts that have the name differ in it."""
    texts = [(ROOT / name).read_text() for name in SCRIPTS]
    assert APART.keys() == set().union(*(drifted(*pair) for pair in combinations(texts, 2)))


@pytest.mark.parametrize("env_id", ["antmaze-umaze", "pointmaze-umaze", "pen-human", "hopper-medium-v2", "mine"])
def test_scripts_train_the_same_morse_network(env_id):
    """For every domain the three fill the network's arguments alike."""
    filled = [vars(script.resolve(script.Args(env_id=env_id))) for script in (td3_bst, iql_bst, morse_only)]
    shared = ("morse_", "kernel", "rq_", "normalize_obs", "goal_scale")
    names = [name for name in filled[2] if name.startswith(shared) or "uniform" in name]
    networks = [{name: arguments[name] for name in names} for arguments in filled]
    assert networks[0] == networks[1] == networks[2] and len(names) == 11
