"""Wrong answers on the autoencoder: the course's own, with a slip each."""

# fmt: off
SLIPS = {  # pieces of the course's own version, what replaces them, words of the message
    "gaussian_kl": [
        ("2 * sigma.log()", "sigma.log()", "log of which"),
        (".sum(-1)", ".sum(0)", "expected"), (".sum(-1)", "", "over latents is missing"),
        ("0.5 * ", "", "twice too large"), (".sum(-1)", ".sum(-1).detach()", "what detaches")],
    "vae_networks": [
        ("F.softplus(raw)", "raw", "never negative"),
        ("F.softplus(raw)", "F.relu(raw)", "which function is never 0"),
        ("F.softplus(raw)", "raw.softmax(-1)", "makes latents share"),
        ("F.softplus(raw)", "torch.ones_like(mu)", "same for all images"),
        ("mu, F", "F.softplus(mu), F", "may be negative"),
        ("mu, F.softplus(raw)", "mu + torch.randn_like(mu), F.softplus(raw)", "two calls"),
        ("mu, F.softplus(raw)", "mu", "returns two things"),
        ("2 * k", "k", "mu, raw = self.encoder(x).chunk(2, -1)", "mu = raw = self.encoder(x)",
         "the same numbers"),
        ("hidden, hidden, d)", "hidden, hidden, d); self.decoder.append(nn.Sigmoid())",
         "probabilities"),
        ("hidden, hidden, d)", "hidden, hidden, d); self.decoder.append(nn.ReLU())",
         "after the last"),
        ("mlp(k, hidden, hidden, d)", "mlp(k, d)", "two hidden layers"),
        ("mlp(k, hidden, hidden, d)", "nn.Sequential(nn.Linear(k, hidden), "
         "nn.Linear(hidden, hidden), nn.Linear(hidden, d))", "straight line"),
        ("hidden=400):", "h=400):\n        hidden = 25", "the same size"),
        ("self.encoder = mlp(d, hidden, hidden, 2 * k)",
         "self.parts = [mlp(d, hidden, hidden, 2 * k)]", "self.encoder(x)", "self.parts[0](x)",
         "`encoder` should be"),
        ("self.encoder(x)", "self.encoder(x.detach()).detach()", "no gradient passes"),
        ("self.decoder", "self.generator", "`decoder` should be")],
    "vae_model": [
        ("logits=vae", "probs=vae", "decoder(z))", "decoder(z).sigmoid().sigmoid())", "another"),
        ('"images", len(x)', '"images", 1', "plate"), ("obs=x", "", "nothing is observed"),
        ("zero = x.new_zeros(len(x), k)", "zero = x.new_ones(len(x), k)", "not N(0, I)"),
        ('pyro.module("vae", vae)', "", "would not find")],
    "vae_guide": [
        ("mu, sigma).", "mu, sigma.exp()).", "not logarithms"), ('"z"', '"code"', "the name"),
        ("mu, sigma).", "sigma, mu.abs()).", "exchanged"),
        ("dist.Normal(mu, sigma)", "dist.Normal(mu, 1)", "encoder has its own")],
    "vae_training": [
        ("binarise(batch)", "batch", "grey pixels"),
        ("shuffle=True", "shuffle=False", "the same order"),
        ("for batch in loader", "for batch in [x]", "all images at once"),
        ("batch_size=100", "batch_size=10", "not 100"),
        ("for batch in loader", "for batch in list(loader)[1:]", "used 2,000 times"),
        ("DataLoader(x,", "DataLoader(binarise(x),", "in the same way"),
        ("pyro.clear_param_store()", "", "store cleared"),
        ("3e-3", "0.1", "larger steps"), ("3e-3", "1e-6", "are steps lost"),
        ("svi.step", "svi.evaluate_loss", "calls `svi.step`"),
        ("total / len(x)", "total", "all images together"),
        ("total / len(x)", "-total / len(x)", "returns the ELBO"),
        ("total / len(x)", "total / len(loader)", "divide by its images"),
        ("return losses", "return losses[-1]", "one loss for each epoch"),
        ("    return losses", "", "`return` missing"),
        ("vae, binarise(batch), k)", "vae, binarise(batch), 3)", "the `k` that were given"),
        ("losses = DataLoader(x, batch_size=100, shuffle=True), []",
         "losses = DataLoader(x[:500], batch_size=100, shuffle=True), []", "used 1,000")],
    "vae_loss": [
        (".mean()", ".mean().item()", "no gradient passes"),
        ("+ gaussian_kl", "+ 0 * gaussian_kl", "rate is missing"),
        ("-log_bernoulli(x, logits)", "-log_bernoulli(x, logits) / x.shape[1]", "should double"),
        ("(distortion + gaussian_kl(mu, sigma)).mean()",
         "(distortion + gaussian_kl(mu, sigma)).mean() / x.shape[1]", "not per pixel")]}
