# %% [markdown]
# # Specs from Python
#
# Cell by cell in an editor or in Jupyter, or whole: `python specs/examples/build.py`, from the
# folder that has `specs/` in it, with the extras `rtx` and `precision`. The command line goes
# through the same calls, so either finds what the other has built.

# %%
import engineforge as ef

specs = ef.load_specs("specs/digits-convnet.yaml")

# %% Everything that is wrong with specs, targets and data, all at once; nothing is built.
try:
    specs.check()
except ef.SpecError as error:
    for problem in error.problems:
        print(problem.file, problem.line, problem.message)
    raise

# %% What would be built, and why.
plan = specs.plan(variants=["fp32", "fp16"], targets=["rtx-ada"])
print(plan.explain())

# %% Build it. What fails is an outcome, not an exception; `or_raise` makes it one.
results = plan.build(keep_going=True)
for variant, outcome in results:
    match outcome:
        case ef.Built(seconds=seconds):
            print(f"{variant.label}: built in {seconds:.1f} s")
        case ef.Reused():
            print(f"{variant.label}: was there")
        case ef.Failed(stage=stage, error=why):
            print(f"{variant.label}: failed in {stage}: {why}")
        case ef.Skipped(why=why):
            print(f"{variant.label}: skipped: {why}")

# %% The engines, with the manifest that each has beside it.
for label, engine in results.or_raise().engines.items():
    print(label, engine.stat().st_size, "bytes", (engine.parent / "manifest.json").is_file())

# %% Is the converted model as good as the spec promises? On the CPU, before there is a GPU.
for variant, outcome in plan.check("accuracy"):
    if isinstance(outcome, ef.Checked):
        print(variant.label, "; ".join(outcome.failures) or "passes")

# %% What would go stale with a TensorRT-RTX that is not here yet?
print(specs.plan(variants=["fp32"], versions={"tensorrt_rtx": "1.8.0.1"}).explain())
