# Stretches of rows in order of time, more than there are threads. Uses: layout, candles, runs, parts.
#
# Each thread has a run of them, which it takes one behind the other into one part; who is through with its own takes
# the last of somebody else's. A thread that starts late finds fewer left, or none; nobody waits for it. So what it
# looks at first is memory of its own account: the last one to leave frees it.

cdef struct Queue:
    PyThread_type_lock gate  # for what is below
    PyThread_type_lock done  # held until all stretches are
    Share* shares  # one for each stretch; gone when ``left`` is 0
    Part* parts
    int[MOST_THREADS] first  # of each thread's run
    int[MOST_THREADS] next
    int[MOST_THREADS] behind
    int threads
    int begun
    int left
    int users
    bint stop  # what follows is not needed


cdef void free_queue(Queue* queue) noexcept nogil:
    if queue.gate is not NULL:
        PyThread_free_lock(queue.gate)
    if queue.done is not NULL:
        PyThread_free_lock(queue.done)
    PyMem_RawFree(queue)


cdef Queue* new_queue(Share* shares, Part* parts, int count, int threads) noexcept nogil:
    """NULL: no memory."""
    cdef Queue* queue = <Queue*>PyMem_RawMalloc(sizeof(Queue))
    cdef int t
    if queue is NULL:
        return NULL
    memset(queue, 0, sizeof(Queue))
    queue.gate, queue.done = PyThread_allocate_lock(), PyThread_allocate_lock()
    if queue.gate is NULL or queue.done is NULL:
        free_queue(queue)
        return NULL
    queue.shares, queue.parts, queue.left, queue.users, queue.threads = shares, parts, count, threads, threads
    for t in range(threads):
        queue.first[t] = queue.next[t] = count * t // threads
        queue.behind[t] = count * (t + 1) // threads
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


cdef int next_stretch(Queue* queue, int me) noexcept nogil:
    """The next of one's own, else the last of who has most left; -1: there is none."""
    cdef int t, most = me, number = queue.next[me]
    if number < queue.behind[me]:
        queue.next[me] += 1
        queue.shares[number].part = queue.first[me]
        return number
    for t in range(queue.threads):
        if queue.behind[t] - queue.next[t] > queue.behind[most] - queue.next[most]:
            most = t
    if queue.next[most] == queue.behind[most]:
        return -1
    queue.behind[most] -= 1
    number = queue.behind[most]
    queue.shares[number].part = number
    return number


cdef bint take_stretch(Queue* queue, Share* share) noexcept nogil:
    """Whether those behind it are of use. What lies before the first stretch is in the series themselves."""
    cdef Share* first = &queue.shares[share.part]
    cdef Part* part = &queue.parts[share.part]
    if share.part:
        if not part.ready and not make_part(part, share.rows, &share.plan, share.low):
            return False
        share.rows.table = part.table
    share.low, share.safe, share.alone = first.low, first.safe, first.alone
    take_share(share)
    share.taken = True
    return not (share.bad or share.poor or share.astray)


cdef void take_stretches(Queue* queue) noexcept nogil:
    """One after the other, while there are any."""
    cdef int me, number
    cdef bint wanted, good = True, last
    PyThread_acquire_lock(queue.gate, WAIT_LOCK)
    me = queue.begun
    queue.begun += 1
    while True:
        number = next_stretch(queue, me)
        wanted = not queue.stop
        PyThread_release_lock(queue.gate)
        if number < 0:
            return
        if wanted:
            good = take_stretch(queue, &queue.shares[number])
        PyThread_acquire_lock(queue.gate, WAIT_LOCK)
        queue.stop |= not good
        queue.left -= 1
        last = queue.left == 0
        if last:
            PyThread_release_lock(queue.done)


cdef void on_queue(void* queue) noexcept nogil:
    take_stretches(<Queue*>queue)
    leave_queue(<Queue*>queue)


cdef bint run_stretches(Share* shares, Part* parts, int count, int threads) noexcept nogil:
    """All stretches, on this thread and others; where the machine gives none, on this one. False: no memory, and
    nothing was done."""
    cdef Queue* queue = new_queue(shares, parts, count, threads)
    cdef int t, lacking = 0
    cdef unsigned long thread
    if queue is NULL:
        return False
    PyThread_acquire_lock(queue.gate, WAIT_LOCK)  # nobody begins before all are where they are to begin
    for t in range(1, threads):
        thread = PyThread_start_new_thread(&on_queue, queue)
        if thread == <unsigned long>-1:
            lacking += 1
        else:
            sm_elsewhere(thread)
    PyThread_release_lock(queue.gate)
    for t in range(lacking):
        leave_queue(queue)
    take_stretches(queue)
    PyThread_acquire_lock(queue.done, WAIT_LOCK)
    PyThread_release_lock(queue.done)
    leave_queue(queue)
    return True
