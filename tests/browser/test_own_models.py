"""Every control, turned while a model of somebody's own trains: what it does there, and shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.flow_page import TALL, Drawn, FlowCell, FlowPage
from tests.browser.jupyterlab import Theme
from tests.browser.own_models import CNN, GPT2, OwnModel

THEMES: tuple[Theme, ...] = ("light", "dark")


@pytest.fixture(params=[CNN, GPT2], ids=lambda own: own.name)
def own(request: pytest.FixtureRequest) -> OwnModel:
    """A model that is given ready made."""
    found: OwnModel = request.param
    return found


@pytest.fixture
def page(cell: FlowCell, own: OwnModel) -> FlowPage:
    """Its widget, every heading open, in training."""
    shown = own.show(cell)
    shown.play()
    return shown


@contextmanager
def same_run(page: FlowPage) -> Iterator[None]:
    """Steps go on from where they were, under whatever is turned in here."""
    kernel = page.kernel
    step, ended = kernel.evaluate("[flow.step_number, len(ended)]")
    yield
    kernel.wait_until(f"flow.step_number > {step + 1}")
    assert kernel.evaluate("[flow.playing, len(ended)]") == [True, ended]


@contextmanager
def new_run(page: FlowPage) -> Iterator[None]:
    """Steps begin anew, and go on, by what is turned in here."""
    kernel = page.kernel
    ended = kernel.evaluate("len(ended)")
    yield
    kernel.wait_until(f"len(ended) > {ended} and flow.step_number >= 2")
    assert kernel.evaluate("[flow.playing, len(ended)]") == [True, ended + 1]
    page.wait_for(lambda drawn: drawn.loss_ghost and drawn.loss)


def is_marked(page: FlowPage, text: str) -> None:
    """Wait for a turn of a knob on the loss curve; turns close to each other share a marker."""
    page.wait_for(lambda drawn: drawn.rules and any(text in marker for marker in drawn.markers))


def is_told(page: FlowPage, sentence: str) -> None:
    """Wait for a change of the model, as a sentence below the controls and in the kernel."""
    expect(page.root.locator(".gradflow-panel")).to_contain_text(sentence)
    assert sentence in page.kernel.evaluate("' '.join(t.sentence for t in flow.tweaks)")


def classes(page: FlowPage) -> set[str]:
    """Return the names of the classes of all modules that train."""
    return set(page.kernel.evaluate("[type(m).__name__ for m in flow.model.modules()]"))


def gram_of(page: FlowPage, own: OwnModel) -> None:
    """Define W·Wᵀ of a weight inside a block, ``gram_of(model)``, in the kernel."""
    page.kernel.execute(
        f"def gram_of(m):\n    matrix = {own.matrix}.detach()\n    return matrix @ matrix.T"
    )


def fact(tooltip: Locator, name: str) -> str:
    """Return what a tooltip says of a quantity."""
    return tooltip.locator("dt").get_by_text(name, exact=True).locator("+ dd").inner_text()


# -- buttons -----------------------------------------------------------------------------


def test_play_pause_step_reset_and_another_seed(page: FlowPage, own: OwnModel) -> None:
    kernel = page.kernel
    page.wait_for(lambda drawn: len(drawn.bars) == len(own.layers()))
    expect(page.layer_names).to_have_text(own.layers())
    losses = "flow.history.loss[:3].tolist()"
    kernel.wait_until("flow.step_number >= 3")
    first = kernel.evaluate(losses)

    with new_run(page):
        page.button("Reset").click()
    kernel.wait_until("flow.step_number >= 3")
    assert kernel.evaluate(losses) == first

    with new_run(page):
        page.button("New seed").click()
    kernel.wait_until("flow.step_number >= 3")
    # A model given ready made keeps its weights, and sees other batches.
    assert kernel.evaluate(losses) != first
    assert kernel.evaluate("flow.model is model")

    before = page.pause()
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == before.step + 1)
    page.at_rest()
    assert kernel.evaluate("[flow.playing, flow.step_number]") == [False, before.step + 1]


def test_how_often_it_draws(page: FlowPage) -> None:
    with same_run(page):
        page.menu("draw").select_option("every 5th")
        page.kernel.wait_until("flow.speed == 5")
    turned = page.wait_for(lambda drawn: "drawn" in drawn.status)
    page.wait_for(lambda drawn: drawn.step >= turned.step + 40)

    stopped = page.pause()

    # Frames that were on their way when it was turned were counted only then.
    on_the_way = 10
    drawn = stopped.steps_drawn - turned.steps_drawn
    assert drawn <= (stopped.step - turned.step) / 5 + on_the_way


# -- learning rate and clipping ----------------------------------------------------------


def test_the_learning_rate_by_key_and_by_mouse(page: FlowPage, own: OwnModel) -> None:
    kernel = page.kernel
    with same_run(page):
        page.slider("learning rate").press("ArrowRight")
        kernel.wait_until(f"flow.learning_rate != {own.learning_rate}")
        rate = kernel.evaluate("flow.learning_rate")
        assert rate == pytest.approx(own.learning_rate * 10**0.01, rel=0.01)
        is_marked(page, f"lr {rate:.3g}")
    with same_run(page):
        page.drag("learning rate", 0.2)
        kernel.wait_until("flow.learning_rate < 1e-4")
        kernel.wait_until("flow.optimizer.param_groups[0]['lr'] == flow.learning_rate")

    def shows_it(_: Drawn) -> bool:
        shown = float(page.readout("learning rate").inner_text())
        return bool(shown == pytest.approx(kernel.evaluate("flow.learning_rate"), rel=0.05))

    page.wait_for(shows_it)


def is_outlined(drawn: Drawn) -> bool:
    """Whether an outline stands around every bar, none of them lower."""
    if len(drawn.outlines) != len(drawn.bars):
        return False
    return all(o >= b for o, b in zip(drawn.outlines, drawn.bars, strict=True))


def test_clipping_by_norm_and_by_value_with_a_threshold(page: FlowPage) -> None:
    kernel = page.kernel
    expect(page.slider("threshold")).to_be_hidden()
    with same_run(page):
        page.menu("clipping").select_option("by norm")
        kernel.wait_until("flow.clip_norm is not None and flow.clip_value is None")
        page.drag("threshold", 0.15)
        kernel.wait_until("flow.clip_norm < 0.01 and flow.history.latest.clip_scale < 1")
        page.wait_for(is_outlined)  # bqplot adds bars before it moves them
        is_marked(page, "clip norm")
    with same_run(page):
        page.menu("clipping").select_option("by value")
        kernel.wait_until("flow.clip_value is not None and flow.clip_norm is None")
        is_marked(page, "clip value")
    with same_run(page):
        page.menu("clipping").select_option("off")
        kernel.wait_until("flow.clip_value is None and flow.clip_norm is None")
        page.wait_for(lambda drawn: not drawn.outlines)
        is_marked(page, "clip off")


# -- depth and activation ----------------------------------------------------------------


def test_depth_by_key_and_back_again(page: FlowPage, own: OwnModel) -> None:
    kernel = page.kernel
    with new_run(page):
        page.slider("depth").press("ArrowRight")
        kernel.wait_until(f"flow.depth == {own.depth + 1}")
    deeper = own.layers(own.depth + 1)
    drawn = page.wait_for(lambda drawn: len(drawn.bars) == len(deeper))
    assert drawn.ghost.count("L") == len(own.layers()) - 1
    assert kernel.evaluate("list(flow.history.layers)") == deeper
    assert kernel.evaluate(f"len(flow.model.{own.blocks})") == own.depth + 1
    assert kernel.evaluate(f"len(model.{own.blocks})") == own.depth
    is_told(page, f"{own.blocks} has {own.depth + 1} blocks, {own.depth} at first.")
    expect(page.layer_names).to_have_text(deeper)

    with new_run(page):
        page.slider("depth").press("ArrowLeft")
        kernel.wait_until("flow.model is model and flow.tweaks == ()")
    page.wait_for(lambda drawn: len(drawn.bars) == len(own.layers()))
    expect(page.root.locator(".gradflow-panel")).not_to_contain_text("at first")
    page.pause()
    page.button("Reset").click()
    kernel.wait_until("flow.step_number == 0")
    assert kernel.evaluate("all(torch.equal(w, given[n]) for n, w in model.state_dict().items())")


def test_another_activation(page: FlowPage, own: OwnModel) -> None:
    assert own.activations in classes(page)
    with new_run(page):
        page.menu("activation").press("t")
        page.kernel.wait_until("flow.activation == 'tanh'")
    assert "Tanh" in classes(page)
    assert own.activations not in classes(page)
    is_told(page, f"hidden activations are tanh instead of {own.activation}.")
    assert page.drawn().ghost
    assert len(page.drawn().bars) == len(own.layers())


# -- under "Network" ---------------------------------------------------------------------


def test_another_initialisation(page: FlowPage, own: OwnModel) -> None:
    with new_run(page):
        page.menu("initialisation").select_option("orthogonal")
        page.kernel.wait_until("flow.initialization == 'orthogonal'")
    is_told(page, "Initialisation orthogonal:")
    gram_of(page, own)
    page.kernel.execute("gram = gram_of(flow._training.model_at_the_beginning())")
    assert page.kernel.evaluate(
        "torch.allclose(gram / gram[0, 0], torch.eye(len(gram)), atol=1e-5)"
    )


def test_a_norm_s_numbers_under_the_pointer_while_it_trains(page: FlowPage, own: OwnModel) -> None:
    kernel = page.kernel
    with new_run(page):
        page.menu("normalisation").select_option("batch")
        kernel.wait_until("flow.normalization == 'batch'")
    is_told(page, "Batch norm ")
    norms = "sum('BatchNorm' in type(m).__name__ for m in flow.model.modules())"
    assert kernel.evaluate(norms) == own.normed
    names = kernel.evaluate("list(flow.history.layers)")
    expect(page.layer_names).to_have_text(names)
    bar = names.index(own.norm)

    tooltip = page.point_at_bar(bar)
    expect(tooltip).to_contain_text(own.norm)
    expect(tooltip).to_contain_text("batch deviation")
    told = fact(tooltip, "batch deviation")
    expect(tooltip.get_by_text(told, exact=True)).to_have_count(0)  # it follows the steps
    expect(tooltip).to_be_visible()
    page.pause()
    notes = kernel.evaluate(f"dict(flow._stage._shown.layer_notes[{bar}])")
    assert set(notes) == {"batch mean", "batch deviation", "scale", "shift"}
    page.point_away()
    tooltip = page.point_at_bar(bar)
    for name, (mean, _, _) in notes.items():
        shown = float(fact(tooltip, name).split()[0].replace("−", "-"))
        assert shown == pytest.approx(mean, rel=0.01, abs=1e-3), name
    page.point_away()


def test_skips_of_a_model_that_can_have_them(cell: FlowCell) -> None:
    page = CNN.show(cell)
    page.play()
    kernel = page.kernel
    with new_run(page):
        page.menu("skips").select_option("1")
        kernel.wait_until("flow.skips == 1.0")
    is_told(page, "Skips: 4 blocks compute x + 1.0·f(x).")
    kernel.execute(
        "block, x = flow._training.model_at_the_beginning().blocks[0], torch.randn(2, 8, 8, 8)"
    )
    assert kernel.evaluate("torch.equal(block(x), x + block.body(x))")

    with new_run(page):
        page.menu("skips").select_option("learned")
        kernel.wait_until("flow.skips == 'learned'")
    is_told(page, "Skips: 4 blocks compute x + α·f(x), α learned from 0.")
    page.wait_for(lambda drawn: len(drawn.bars) == len(CNN.layers()) + 4)
    kernel.wait_until("all(b.scale.item() != 0 for b in flow.model.blocks)")

    with new_run(page):
        page.menu("skips").select_option("off")
        kernel.wait_until("flow.skips is None and flow.model is model")


def test_skips_that_are_there_already_are_not_offered_and_say_why(cell: FlowCell) -> None:
    page = GPT2.show(cell)
    page.play()
    menu = page.menu("skips")
    reason = (
        "The repeated blocks of transformer.h (GPT2Block) have a skip connection inside already, "
        "and a second one around it would double it."
    )
    expect(menu).to_be_disabled()
    expect(menu).to_have_value("–")
    expect(menu.locator("xpath=..")).to_have_attribute("title", reason)
    described = menu.get_attribute("aria-describedby")
    assert described is not None
    assert cell.notebook.page.locator(f"[id='{described}']").text_content() == reason
    expect(menu).to_have_accessible_description(reason)
    expect(page.root.locator(".gradflow-reasons:visible")).to_contain_text(reason)
    others = ("initialisation", "normalisation", "orthogonality", "activation", "optimizer")
    for name in others:
        expect(page.menu(name)).to_be_enabled()


def test_orthogonality_as_a_penalty_and_hard(page: FlowPage, own: OwnModel) -> None:
    kernel = page.kernel
    with new_run(page):
        page.menu("orthogonality").select_option("0.1")
        kernel.wait_until("flow.orthogonality == 0.1")
    is_told(page, "Orthogonality: 0.1·Σ‖WᵀW − I‖²")
    gram_of(page, own)
    kernel.execute(
        "def distance(m):\n"
        "    gram = gram_of(m)\n"
        "    return (gram - torch.eye(len(gram))).square().sum().item()"
    )
    kernel.wait_until("distance(flow.model) < 0.95 * distance(model)")
    with new_run(page):
        page.menu("orthogonality").select_option("hard")
        kernel.wait_until("flow.orthogonality == 'hard'")
    is_told(page, "weights are computed as orthogonal ones.")
    assert kernel.evaluate("distance(flow._training.model_at_the_beginning())") < 1e-8


# -- under "Optimizer and data" ----------------------------------------------------------


def test_another_optimizer_and_weight_decay(page: FlowPage, own: OwnModel) -> None:
    kernel = page.kernel
    for name, kind in (("Adam", "Adam"), ("momentum", "SGD"), ("RMSProp", "RMSprop")):
        with same_run(page):
            page.menu("optimizer").select_option(name)
            kernel.wait_until(f"flow.optimizer_kind == {name!r}")
            kernel.wait_until(f"type(flow.optimizer).__name__ == {kind!r}")
            is_marked(page, name)
        assert kernel.evaluate("flow.history.latest.settings.optimizer_kind") == name
    with same_run(page):
        page.menu("optimizer").select_option(f"as given ({own.optimizer})")
        kernel.wait_until("flow.optimizer_kind == 'as given'")
        kernel.wait_until(f"type(flow.optimizer).__name__ == {own.optimizer!r}")
        is_marked(page, "optimizer as given")

    decay = kernel.evaluate("flow.weight_decay")
    with same_run(page):
        page.slider("weight decay").press("ArrowRight")
        kernel.wait_until(f"flow.weight_decay > {decay}")
        decay = kernel.evaluate("flow.weight_decay")
        kernel.wait_until(f"flow.optimizer.param_groups[0]['weight_decay'] == {decay}")
        is_marked(page, f"weight decay {decay:.3g}")
    expect(page.readout("weight decay")).to_have_text(f"{decay:g}")
    with same_run(page):
        page.drag("weight decay", 1.0)
        kernel.wait_until("flow.weight_decay == 1.0")
        kernel.wait_until("flow.optimizer.param_groups[0]['weight_decay'] == 1.0")


def test_how_much_data_a_step_sees(page: FlowPage) -> None:
    kernel = page.kernel
    seen = "flow.history.latest.settings.batch_size"
    for button, size in (("full batch", 128), ("stochastic \\(1\\)", 1), ("mini-batch", 16)):
        with same_run(page):
            page.button(button).click()
            kernel.wait_until(f"flow.batch_size == {seen} == {size}")
            is_marked(page, f"batch {size}")
        expect(page.readout("batch size")).to_have_text(str(size))
        expect(page.button(button)).to_have_attribute("aria-pressed", "true")
    with same_run(page):
        page.slider("batch size").press("ArrowRight")
        kernel.wait_until(f"flow.batch_size == {seen} == 32")
    with same_run(page):
        page.drag("batch size", 0.0)
        kernel.wait_until(f"flow.batch_size == {seen} == 1")
    expect(page.button("stochastic \\(1\\)")).to_have_attribute("aria-pressed", "true")


# -- what is refused ---------------------------------------------------------------------


def test_a_change_that_is_refused_leaves_its_control_and_the_run_as_they_were(
    page: FlowPage, own: OwnModel
) -> None:
    kernel = page.kernel
    with new_run(page):
        page.menu("normalisation").select_option("weight")
        kernel.wait_until("flow.normalization == 'weight'")
    with same_run(page):
        page.menu("orthogonality").select_option("hard")
        alert = page.root.locator(".gradflow-notice[role=alert]")
        expect(alert).to_contain_text("The weights are computed already, by weight norm")
        expect(page.menu("orthogonality")).to_have_value("off")
        assert kernel.evaluate("[flow.orthogonality, len(flow.tweaks)]") == [None, 1]
    is_told(page, "Weight norm of the weights of")
    expect(alert).to_be_visible()

    # Nothing of it stays in the way of the next change.
    with new_run(page):
        page.menu("normalisation").select_option("layer")
        kernel.wait_until("flow.normalization == 'layer'")
    expect(alert).to_be_hidden()


# -- looked at ---------------------------------------------------------------------------


def test_pictures(page: FlowPage, own: OwnModel) -> None:
    notebook = page.notebook
    page.wait_for(lambda drawn: drawn.step >= 20)
    with new_run(page):
        page.menu("normalisation").select_option("batch")
    page.wait_for(lambda drawn: drawn.step >= 20)
    page.slider("learning rate").press("ArrowRight")
    page.wait_for(lambda drawn: drawn.markers)
    page.menu("clipping").select_option("by norm")
    page.drag("threshold", 0.4)
    page.wait_for(lambda drawn: drawn.outlines)
    page.pause()
    names = page.kernel.evaluate("list(flow.history.layers)")
    expect(page.layer_names).to_have_text(names)
    for theme in THEMES:
        notebook.set_theme(theme)
        for width, height in ((1500, 1000), (600, TALL + 800)):  # the cell above it is long
            page.resize(width, height)
            page.at_rest()
            notebook.screenshot(f"own-{own.name}-{theme}-{width}", page.root)
            assert sticking_out(page) == []
            # The far one last, so that a narrower window finds the tooltip outside of it.
            for name in (own.norm, names[-1]):
                is_beside(page.point_at_bar(names.index(name)), page, names.index(name), width)
                if theme == "light" and name == own.norm:
                    notebook.screenshot(f"own-{own.name}-tooltip-{width}", page.root)
            page.point_away()


def is_beside(tooltip: Locator, page: FlowPage, number: int, width: int) -> None:
    """Check that a tooltip stands beside its bar, inside a window of this width."""
    expect(tooltip).to_contain_text(f"{number + 1} · ")
    box, bar = tooltip.bounding_box(), page.bar(number).bounding_box()
    assert box is not None
    assert bar is not None
    assert 0 <= box["x"] < box["x"] + box["width"] <= width
    assert box["y"] - 20 < bar["y"] < box["y"] + box["height"] + 20


def sticking_out(page: FlowPage) -> list[str]:
    """Return what is wider than its place, or reaches out of the widget to its side."""
    found: list[str] = page.root.evaluate(
        """root => {
            const {left, right} = root.getBoundingClientRect();
            const context = document.createElement("canvas").getContext("2d");
            // A menu's text does not overflow: it is cut.
            const textOf = (part, style) => {
                if (part.localName !== "select") return 0;
                context.font = style.font;
                const text = context.measureText(part.selectedOptions[0].text).width;
                return text + parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
            };
            const parts = root.querySelectorAll(
                ".gradflow-panel *, .gradflow-knobs *, .gradflow-toolbar *, .gradflow-views *");
            return [...parts].filter(part => {
                const box = part.getBoundingClientRect();
                if (box.width === 0 || part.closest(".gradflow-live")) return false;
                const out = box.left < left - 1 || box.right > right + 1;
                const style = getComputedStyle(part);
                const cut = part.scrollWidth > part.clientWidth + 1
                    && part.clientWidth > 0 && style.overflowX !== "visible";
                return out || cut || textOf(part, style) > part.clientWidth;
            }).map(part => `${part.className} ${part.value ?? part.textContent}`);
        }"""
    )
    return found
