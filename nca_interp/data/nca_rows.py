class Accepted(NamedTuple):
    """Rules of one chunk of candidates that lie in the band, with the start of their trajectories."""

    candidates: npt.NDArray[np.int64]
    """[accepted] candidate numbers."""
    scores: npt.NDArray[np.float64]
    """[candidates of the chunk] gzip ratios; empty without a band."""
    frames: Cells
    """[accepted, score_frames, grid, grid]; no frames without a band."""


class Search:
    """Counts of a search for rules: how many candidates were tried and how they scored."""

    def __init__(self) -> None:
        self.tried = 0
        self.accepted = 0
        self.scores: list[npt.NDArray[np.float64]] = []

    def add(self, chunk: Accepted, tried: int) -> None:
        """Count one chunk."""
        self.tried += tried
        self.accepted += len(chunk.candidates)
        self.scores.append(chunk.scores)

    def summary(self, spec: NcaSpec) -> dict[str, Any]:
        """For provenance: candidates tried, acceptance rate, quantiles of all and of accepted gzip ratios."""
        out: dict[str, Any] = {"candidates_tried": self.tried, "acceptance_rate": self.accepted / max(self.tried, 1)}
        scores = np.concatenate(self.scores) if self.scores else np.empty(0)
        if spec.band is not None and len(scores):
            inside = scores[(scores >= spec.band[0]) & (scores < spec.band[1])]
            out["gzip_of_candidates"] = _quantiles(scores)
            out["gzip_of_accepted"] = _quantiles(inside)
        return out

    def check(self, spec: NcaSpec) -> None:
        """UserError once the band has proved out of reach."""
        if self.tried < TRIES or self.accepted >= self.tried * ACCEPTANCE or spec.band is None:
            return
        reach = _quantiles(np.concatenate(self.scores))
        shown = ", ".join(f"{name} {value:.3f}" for name, value in reach.items())
        raise UserError(
            f"band: [{spec.band[0]:g}, {spec.band[1]:g}) is out of reach: {self.accepted} of {self.tried:,} random rules lie in it "
            f"(n_states {spec.n_states}, patch {spec.patch}, tau {spec.tau:g}, variant {spec.variant}); "
            f"their gzip ratios: {shown}; choose a band inside this range"
        )


def _quantiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    if not len(values):
        return {}
    names = ("min", "5%", "50%", "95%", "max")
    return dict(zip(names, np.quantile(values, [0, 0.05, 0.5, 0.95, 1]).round(4).tolist(), strict=True))


def judge(spec: NcaSpec, seed: int, split: str, first: int, n: int) -> Accepted:
    """Score candidates first .. first + n - 1 and keep those in the band."""
    candidates = np.arange(first, first + n)
    if spec.band is None:
        return Accepted(candidates, np.empty(0), np.empty((n, 0, spec.grid, spec.grid), np.uint8))
    keys = rule_keys(seed, split, candidates)
    frames = simulate(spec, make_rules(spec, keys), trajectory_keys(keys, 0), spec.score_frames)
    scores = np.array([gzip_score(spec, f) for f in frames])
    inside = (scores >= spec.band[0]) & (scores < spec.band[1])
    return Accepted(candidates[inside], scores, frames[inside])


def in_order(work: Callable[[int], T], items: Iterator[int], threads: int | None) -> Iterator[T]:
    """work(item) for each item, in order, computed on `threads` threads a little ahead of the consumer."""
    threads = threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads or os.cpu_count() or 1
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[T]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
