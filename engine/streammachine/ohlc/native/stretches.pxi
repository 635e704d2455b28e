# Stretches of rows in order of time, more than there are threads: each thread takes the next one when it is through with
# its last. Uses: layout, candles, runs, parts.
#
# A thread that starts late finds fewer left, or none; nobody waits for it. So what it looks at first is memory of its
# own account: the last one to leave frees it.

cdef struct Queue:
    PyThread_type_lock gate  # for what is below
    PyThread_type_lock done  # held until all stretches are
    Share* shares  # one for each stretch; gone when ``left`` is 0
    Part* parts
    int count
    int next
    int left
    int users
    bint stop  # what follows is not needed


cdef void free_queue(Queue* queue) noexcept nogil:
    if queue.gate is not NULL:
        PyThread_free_lock(queue.gate)
    if queue.done is not NULL:
        PyThread_free_lock(queue.done)
    PyMem_RawFree(queue)


cdef Queue* new_queue(Share* shares, Part* parts, int count, int users) noexcept nogil:
    """NULL: no memory."""
    cdef Queue* queue = <Queue*>PyMem_RawMalloc(sizeof(Queue))
    if queue is NULL:
        return NULL
    memset(queue, 0, sizeof(Queue))
    queue.gate, queue.done = PyThread_allocate_lock(), PyThread_allocate_lock()
    if queue.gate is NULL or queue.done is NULL:
        free_queue(queue)
        return NULL
    queue.shares, queue.parts, queue.count, queue.left, queue.users = shares, parts, count, count, users
    PyThread_acquire_lock(queue.done, WAIT_LOCK)
    return queue


cdef void leave_queue(Queue* queue) noexcept nogil:
    cdef bint last
    PyThread_acquire_lock(queue.gate, WAIT_LOCK)
    queue.users -= 1
    last = queue.users == 0
    PyThread_release_lock(queue.gate)
    if last:
        free_queue(queue)


cdef bint take_stretch(Share* share, Part* part, const Plan* plan) noexcept nogil:
    """Whether those behind it are of use. The first goes into the series themselves, the others into a part."""
    if share.number:
        if not make_part(part, share.rows, plan, share.low):
            return False
        share.rows.table = part.table
    take_share(share)
    share.taken = True
    return not (share.bad or share.poor or share.astray)


cdef void take_stretches(Queue* queue) noexcept nogil:
    """One after the other, while there are any."""
    cdef Share* share
    cdef bint wanted, good = True, last
    while True:
        PyThread_acquire_lock(queue.gate, WAIT_LOCK)
        if queue.next == queue.count:
            PyThread_release_lock(queue.gate)
            return
        share = &queue.shares[queue.next]
        queue.next += 1
        wanted = not queue.stop
        PyThread_release_lock(queue.gate)
        if wanted:
            good = take_stretch(share, &queue.parts[share.number], &share.plan)
        PyThread_acquire_lock(queue.gate, WAIT_LOCK)
        queue.stop |= not good
        queue.left -= 1
        last = queue.left == 0
        PyThread_release_lock(queue.gate)
        if last:
            PyThread_release_lock(queue.done)


cdef void on_queue(void* queue) noexcept nogil:
    take_stretches(<Queue*>queue)
    leave_queue(<Queue*>queue)


cdef bint run_stretches(Share* shares, Part* parts, int count, int threads) noexcept nogil:
    """All stretches, on this thread and others; where the machine gives no others, on this one. False: no memory, and
    nothing was done."""
    cdef Queue* queue = new_queue(shares, parts, count, threads)
    cdef int t
    if queue is NULL:
        return False
    for t in range(1, threads):
        if PyThread_start_new_thread(&on_queue, queue) == <unsigned long>-1:
            leave_queue(queue)
    take_stretches(queue)
    PyThread_acquire_lock(queue.done, WAIT_LOCK)
    PyThread_release_lock(queue.done)
    leave_queue(queue)
    return True
