"""Cannistraci-Hebb scores of the absent links of a layer, from its mask alone."""

import tensorflow as tf

# Links in one product of CH3-L3 (count): 13 MB of float64 for a layer of 784 inputs.
LINKS_AT_ONCE = 2048


def score_node_based(links: tf.Tensor) -> tf.Tensor:
    """CH2-L3n, the node-based score of CHTs (Zhang et al. 2025, arXiv 2501.19107, equation 3).

    s(u, v) = sum over common neighbours z of (1 + internal(z)) / (1 + external(z))

    The layer is a bipartite graph of inputs and outputs. Input u and output v are joined by paths u - y - z - v of
    three links; the outputs y and the inputs z on such paths are their common neighbours, their local community. Links
    of a common neighbour into the community are internal, those that lead neither there nor to u or v are external.

    Args:
      links: boolean [inputs, outputs], the active weights.

    Returns:
      float64 [inputs, outputs], 0 where no path of three links joins the two; without a meaning where a link exists.
    """
    adjacency = tf.cast(links, tf.float64)
    return _sum_over_inputs(adjacency) + tf.transpose(_sum_over_inputs(tf.transpose(adjacency)))


def _sum_over_inputs(adjacency: tf.Tensor) -> tf.Tensor:
    """The part of CH2-L3n of common neighbours among the inputs."""
    shared, external = _count_links(adjacency)
    return tf.where(shared > 0, (1.0 + shared) / (1.0 + external), 0.0) @ adjacency


def score_path_based(links: tf.Tensor) -> tf.Tensor:
    """CH3-L3, the path-based score of CHT (Zhang et al. 2024, section 3.2).

    s(u, v) = sum over paths u - y - z - v of 1 / sqrt((1 + external(y)) (1 + external(z)))

    with external links as in `score_node_based`. It takes inputs x outputs x links multiplications.

    Args:
      links: boolean [inputs, outputs], the active weights.

    Returns:
      float64 [inputs, outputs], 0 where no path of three links joins the two; without a meaning where a link exists.
    """
    size, outputs = links.shape.num_elements(), links.shape[1]
    adjacency = tf.cast(links, tf.float64)
    of_input = tf.math.rsqrt(1.0 + _count_links(adjacency)[1])
    of_output = tf.transpose(tf.math.rsqrt(1.0 + _count_links(tf.transpose(adjacency))[1]))
    # Every link z - y is the middle of paths; a loop over parts of constant size keeps shapes static.
    part, count = min(size, LINKS_AT_ONCE), tf.reduce_sum(tf.cast(links, tf.int32))
    links_first = tf.argsort(tf.cast(~tf.reshape(links, [-1]), tf.int32), stable=True)
    links_first = tf.pad(links_first, [(0, -size % part)])

    def add_part(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        places = tf.slice(links_first, [start], [part])
        z, y = places // outputs, places % outputs
        is_link = tf.cast(start + tf.range(part) < count, tf.float64)
        before = tf.gather(adjacency, y, axis=1) * tf.gather(of_input, z, axis=1) * is_link
        after = tf.gather(adjacency, z) * tf.gather(of_output, y)
        return start + part, total + before @ after

    start = (tf.constant(0), tf.zeros_like(adjacency))
    return tf.while_loop(lambda start, _: start < count, add_part, start)[1]


def _count_links(adjacency: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Links of each input z to the neighbours of each input u, and to others but one, both [u, z].

    The one is a link of z to the output for which u is scored, which is no neighbour of u.
    """
    shared = tf.matmul(adjacency, adjacency, transpose_b=True)
    return shared, tf.maximum(tf.reduce_sum(adjacency, axis=1) - shared - 1.0, 0.0)
